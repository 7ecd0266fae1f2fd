select marts.total_events, facts.total_events as loaded_events
from (select coalesce(sum(total_events), 0) as total_events from {{ ref('daily_active_users') }}) as marts
cross join (select count(*) as total_events from {{ source('ecommerce', 'fact_events') }}) as facts
where marts.total_events <> facts.total_events
