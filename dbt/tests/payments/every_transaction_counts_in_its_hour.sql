-- Also of late ones, and of hours that have none in the view.
select *
from (
    select event_hour, count(*) as held, count(case when is_late then 1 end) as late
    from {{ source('payments', 'transactions_clean') }}
    group by event_hour
) as clean
full join {{ source('payments', 'hourly_metrics') }} as shown on shown.event_hour = clean.event_hour
where held is distinct from total_transactions or late is distinct from late_transactions
