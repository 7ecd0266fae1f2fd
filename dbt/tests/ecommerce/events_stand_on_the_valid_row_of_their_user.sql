-- Every event points to the row of its own user that was valid when it happened.
select events.event_id
from {{ ref('stg_events') }} as events
inner join {{ ref('stg_users') }} as users on events.user_key = users.user_key
where events.user_id <> users.user_id
    or events.event_at < users.valid_from
    or events.event_at >= users.valid_to
