with activity as (

    select
        user_id,
        max(event_at) as last_event_at,
        count(*) as total_events,
        max(case when event_type = 'purchase' then event_at end) as last_purchase_at
    from {{ ref('stg_events') }}
    group by user_id

),

reference as (

    select
        {% if var('as_of') %}
        cast('{{ var("as_of") }}' as timestamp) as as_of
        {% else %}
        max(event_at) as as_of
        from {{ ref('stg_events') }}
        {% endif %}

),

idle as (

    select
        activity.*,
        reference.as_of,
        cast(floor(extract(epoch from (reference.as_of - activity.last_event_at)) / 86400) as bigint) as days_inactive
    from activity
    cross join reference

)

select
    idle.user_id,
    users.plan_type,
    idle.last_event_at,
    idle.last_purchase_at,
    cast(idle.total_events as bigint) as total_events,
    idle.days_inactive,
    case
        when idle.days_inactive >= 4 * {{ var('churn_after_days') }} then 'high'
        when idle.days_inactive >= 2 * {{ var('churn_after_days') }} then 'medium'
        else 'low'
    end as risk_level,
    idle.as_of
from idle
inner join {{ ref('stg_users') }} as users on idle.user_id = users.user_id and users.is_current
where idle.days_inactive >= {{ var('churn_after_days') }}
