select
    event_date as activity_date,
    cast(count(distinct user_id) as bigint) as daily_active_users,
    cast(count(distinct session_id) as bigint) as sessions,
    cast(count(*) as bigint) as total_events,
    cast(count(case when event_type = 'user_signup' then 1 end) as bigint) as user_signups,
    cast(count(case when event_type = 'page_view' then 1 end) as bigint) as page_views,
    cast(count(case when event_type = 'purchase' then 1 end) as bigint) as purchases,
    cast(count(case when event_type = 'payment_failed' then 1 end) as bigint) as failed_payments,
    cast(count(distinct case when event_type = 'purchase' then user_id end) as bigint) as purchasing_users
from {{ ref('stg_events') }}
group by event_date
