select
    device_key,
    device_type,
    os,
    browser
from {{ source('ecommerce', 'dim_device') }}
