select
    time_key,
    hour_start,
    date as calendar_date,
    day_of_week,
    day_name,
    hour as hour_of_day,
    is_weekend
from {{ source('ecommerce', 'dim_time') }}
