-- Only days that a load has touched since are made anew; those that have lost their last event go. A day's number is that of
-- the load that touched it last, so that each day is compared by itself: a run that comes in between misses nothing.
{{
    config(
        materialized='incremental',
        incremental_strategy='delete+insert',
        unique_key='activity_date',
        on_schema_change='append_new_columns',
        pre_hook="{% if is_incremental() %}
            delete from {{ this }}
            where activity_date not in (
                select event_date from {{ source('ecommerce', 'penstock_days') }} where pipeline = '{{ var('pipeline') }}'
            )
            and exists (
                select 1 from {{ source('ecommerce', 'penstock_loads') }}
                where split_part(pipeline, '/', 1) = '{{ var('pipeline') }}'
            )
        {% endif %}"
    )
}}

-- A table of its earlier form has no numbers: all its days are made anew, and the column comes with them.
{% set by_day = is_incremental()
    and 'load_number' in adapter.get_columns_in_relation(this) | map(attribute='name') | list %}

with touched as (

    select days.event_date, days.load_number
    from {{ source('ecommerce', 'penstock_days') }} as days
    {% if by_day %}
    left join (
        select activity_date, min(load_number) as load_number, count(*) as copies
        from {{ this }}
        group by activity_date
    ) as built on days.event_date = built.activity_date
    {% endif %}
    where days.pipeline = '{{ var("pipeline") }}'
    {% if by_day %}
        -- Two runs of dbt at once can leave a day twice.
        and (built.load_number is distinct from days.load_number or built.copies > 1)
    {% endif %}

)

select
    events.event_date as activity_date,
    cast(count(distinct events.user_id) as bigint) as daily_active_users,
    cast(count(distinct events.session_id) as bigint) as sessions,
    cast(count(*) as bigint) as total_events,
    cast(count(case when events.event_type = 'user_signup' then 1 end) as bigint) as user_signups,
    cast(count(case when events.event_type = 'page_view' then 1 end) as bigint) as page_views,
    cast(count(case when events.event_type = 'purchase' then 1 end) as bigint) as purchases,
    cast(count(case when events.event_type = 'payment_failed' then 1 end) as bigint) as failed_payments,
    cast(count(distinct case when events.event_type = 'purchase' then events.user_id end) as bigint) as purchasing_users,
    touched.load_number
from {{ ref('stg_events') }} as events
inner join touched on events.event_date = touched.event_date
{% if by_day %}
-- So that the other days are not even read.
where events.event_at >= (select min(event_date) from touched)
    and events.event_at < (select max(event_date) from touched) + interval '1 day'
{% endif %}
group by events.event_date, touched.load_number
