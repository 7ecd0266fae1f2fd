select
    user_key,
    user_id,
    plan_type,
    country,
    signup_channel,
    language,
    marketing_consent,
    effective_start_date as valid_from,
    effective_end_date as valid_to,
    is_current,
    is_inferred
from {{ source('ecommerce', 'dim_user') }}
