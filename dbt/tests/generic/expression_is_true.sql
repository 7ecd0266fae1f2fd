{% test expression_is_true(model, expression) %}
{# Fails for each row where the expression is false or null. #}
select *
from {{ model }}
where not coalesce(({{ expression }}), false)
{% endtest %}
