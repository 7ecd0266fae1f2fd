-- The rows of a user follow on one another, and the last one is current.
select user_id, valid_to, next_from
from (
    select
        user_id,
        valid_to,
        lead(valid_from) over (partition by user_id order by valid_from) as next_from
    from {{ ref('stg_users') }}
) as rows_of_users
where valid_to is distinct from next_from
