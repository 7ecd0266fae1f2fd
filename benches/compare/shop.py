"""What the jobs of other tools know of the events: their properties by type, and what tells a wrong type in a line."""

from __future__ import annotations

NUMBERS = ["load_time_ms", "quantity", "amount", "attempt"]
TEXTS = [
    "event_type", "schema_version", "idempotency_key", "user_id", "event_timestamp", "device_type", "os", "browser",
    "country", "ip_address", "page", "user_agent", "order_id", "product_id", "product_category", "currency",
    "payment_method", "failure_reason", "plan_type", "signup_channel", "language",
]  # fmt: skip
# `referrer` may be null.
FIELDS = [*TEXTS, "referrer", *NUMBERS, "marketing_consent"]

# One regular expression over a line; all engines here know this much.
WRONG_TYPE = "|".join(
    [
        f'"(?:{"|".join(TEXTS)})":[ ]*[^" ]',
        '"referrer":[ ]*[^"n ]',
        f'"(?:{"|".join(NUMBERS)})":[ ]*[^-0-9 ]',
        '"marketing_consent":[ ]*[^tf ]',
    ]
)

# A number of an IPv4 address.
BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
