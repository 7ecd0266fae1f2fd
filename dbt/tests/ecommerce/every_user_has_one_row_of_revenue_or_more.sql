select users.user_id
from {{ ref('stg_users') }} as users
left join {{ ref('revenue_per_user') }} as revenue on users.user_id = revenue.user_id
where revenue.user_id is null
