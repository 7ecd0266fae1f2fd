-- Money of different currencies is never added up: a user who paid in two has two rows.

with users as (

    select user_id, plan_type, country
    from {{ ref('stg_users') }}
    where is_current

),

purchases as (

    select user_id, currency, event_at, purchase_amount
    from {{ ref('stg_events') }}
    where event_type = 'purchase'

),

summed as (

    select
        user_id,
        currency,
        count(*) as purchase_count,
        sum(purchase_amount) as lifetime_value,
        min(purchase_amount) as smallest_purchase,
        max(purchase_amount) as largest_purchase,
        min(event_at) as first_purchase_at,
        max(event_at) as last_purchase_at
    from purchases
    group by user_id, currency

)

select
    users.user_id,
    users.plan_type,
    users.country,
    summed.currency,
    cast(coalesce(summed.purchase_count, 0) as bigint) as purchase_count,
    cast(coalesce(summed.lifetime_value, 0) as decimal(18, 2)) as lifetime_value,
    cast(round(summed.lifetime_value / summed.purchase_count, 2) as decimal(12, 2)) as average_order_value,
    cast(summed.smallest_purchase as decimal(12, 2)) as smallest_purchase,
    cast(summed.largest_purchase as decimal(12, 2)) as largest_purchase,
    summed.first_purchase_at,
    summed.last_purchase_at
from users
left join summed on users.user_id = summed.user_id
