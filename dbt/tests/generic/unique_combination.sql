{% test unique_combination(model, columns) %}
{# Fails for each combination of the columns that stands in more than one row; null is a value. #}
select {{ columns | join(', ') }}, count(*) as copies
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
{% endtest %}
