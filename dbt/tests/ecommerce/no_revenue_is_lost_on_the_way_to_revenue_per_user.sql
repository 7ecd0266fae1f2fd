select marts.currency, marts.revenue, facts.revenue as loaded_revenue
from (
    select currency, sum(lifetime_value) as revenue
    from {{ ref('revenue_per_user') }}
    where currency is not null
    group by currency
) as marts
full outer join (
    select currency, sum(purchase_amount) as revenue
    from {{ source('ecommerce', 'fact_events') }}
    where purchase_amount is not null
    group by currency
) as facts on marts.currency = facts.currency
where marts.revenue is distinct from facts.revenue
