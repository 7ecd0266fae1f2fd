"""The job with Polars: lazily, on the streaming engine.

    python polars_job.py EVENTS.jsonl OUT.parquet [--tool-typing]

Polars turns the number 12345 into text where text is asked for, and stops at a line that is no JSON. So lines that
cannot be objects are left out first, and one regular expression over each line finds values of the wrong type.
`--tool-typing` looks for lists and objects only, at which Polars would stop too: not the same rows.
"""

from __future__ import annotations

import sys

import polars as pl

from shop import BYTE, FIELDS, NUMBERS, WRONG_TYPE

UUID = r"^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"
PAYMENTS = ["card", "paypal", "bank_transfer", "gift_card"]


def col(name: str) -> pl.Expr:
    """A column of text."""
    return pl.col(name)


def whole(name: str, low: int, high: int) -> pl.Expr:
    """Whether a column holds a whole number within bounds."""
    return col(name).cast(pl.Int64, strict=False).is_between(low, high)


def text(name: str, longest: int) -> pl.Expr:
    """Whether a column holds text of 1 to so many characters."""
    return col(name).str.len_chars().is_between(1, longest)


def amount() -> pl.Expr:
    """Whether `amount` is a decimal of at most 12 digits, two of them after the point, and not negative."""
    return col("amount").str.contains(r"^[0-9]{1,10}(?:\.[0-9]{1,2}0*)?$")


def absent_or(name: str, condition: pl.Expr) -> pl.Expr:
    """What holds of an optional column."""
    return col(name).is_null() | condition


def valid() -> pl.Expr:
    """What the contract of the pipeline `ecommerce` asks for; null means no."""
    every = (
        col("schema_version").eq("v1")
        & col("idempotency_key").str.contains(UUID)
        & col("user_id").str.contains(r"^[A-Za-z0-9_-]{1,64}$")
        & col("at").is_not_null()
        & col("device_type").is_in(["desktop", "mobile", "tablet"])
        & col("os").is_in(["Windows", "macOS", "Linux", "iOS", "iPadOS", "Android"])
        & col("browser").is_in(["Chrome", "Edge", "Firefox", "Safari", "Samsung Internet"])
        & col("country").str.contains(r"^[A-Z]{2}$")
        & col("ip_address").str.contains(rf"^{BYTE}\.{BYTE}\.{BYTE}\.{BYTE}$")
        & absent_or("user_agent", col("user_agent").str.len_chars() <= 512)
        & absent_or("referrer", col("referrer").str.contains("^[A-Za-z][A-Za-z0-9+.-]*:"))
    )
    page_view = col("page").str.starts_with("/") & text("page", 2048) & whole("load_time_ms", 0, 600_000)
    payment = (
        text("order_id", 64)
        & amount()
        & col("currency").is_in(["USD", "EUR", "GBP"])
        & col("payment_method").is_in(PAYMENTS)
    )
    purchase = (
        payment
        & text("product_id", 64)
        & col("product_category").is_in(
            ["books", "clothing", "electronics", "garden", "groceries", "home", "sports", "toys"]
        )
        & whole("quantity", 1, 1000)
    )
    payment_failed = (
        payment
        & absent_or("product_id", text("product_id", 64))
        & col("failure_reason").is_in(
            ["card_declined", "insufficient_funds", "expired_card", "fraud_suspected", "network_error"]
        )
        & whole("attempt", 1, 20)
    )
    user_signup = (
        col("plan_type").is_in(["free", "basic", "premium", "enterprise"])
        & col("signup_channel").is_in(["organic", "ads", "referral", "email", "partner"])
        & absent_or("language", col("language").str.contains(r"^[a-z]{2}(?:-[A-Z]{2})?$"))
    )
    kind = col("event_type")
    return every & (
        pl.when(kind == "page_view")
        .then(page_view)
        .when(kind == "purchase")
        .then(purchase)
        .when(kind == "payment_failed")
        .then(payment_failed)
        .when(kind == "user_signup")
        .then(user_signup)
        .otherwise(statement=False)
    )


def main(source: str, target: str, *, check_types: bool) -> None:
    """Runs the job."""
    line = pl.col("line")
    lines = pl.scan_lines(source, row_index_name="position").filter(line.str.starts_with("{"), line.str.ends_with("}"))
    # A list where text is asked for stops the job: lines with one are left out in any case.
    lines = lines.filter(~line.str.contains(WRONG_TYPE if check_types else r'":\s*[\[{]'))
    events = (
        lines.select("position", line.str.json_decode(pl.Struct(dict.fromkeys(FIELDS, pl.String))).alias("event"))
        .unnest("event")
        .with_columns(at=col("event_timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", strict=False))
        .filter(valid())
        .select(
            pl.exclude("event_timestamp", "at", *NUMBERS, "marketing_consent"),
            pl.col("at").dt.replace_time_zone("UTC").alias("event_timestamp"),
            pl.col("load_time_ms", "quantity", "attempt").cast(pl.Int64),
            pl.col("amount").cast(pl.Decimal(12, 2)),
            (pl.col("marketing_consent") == "true").alias("marketing_consent"),
        )
        .unique("idempotency_key", keep="first", maintain_order=True)
        .collect(engine="streaming")
    )
    # Sorting rows of 28 columns is dear: sort the three that sessions need, and go back to the order of rows.
    user, at, row = pl.col("user_id"), pl.col("event_timestamp"), pl.int_range(pl.len())
    opens = (user != user.shift()).fill_null(value=True) | (at - at.shift() > pl.duration(minutes=30))
    sessions = (
        events.lazy()
        .select("user_id", "event_timestamp", "position")
        .with_row_index("row")
        .sort("user_id", "event_timestamp", "position")
        .with_columns(opens=opens)
        .with_columns(
            session_start=pl.when("opens").then(at).forward_fill(),
            session_seq=row - pl.when("opens").then(row).forward_fill() + 1,
        )
        .with_columns(session_id=pl.struct("user_id", "session_start").hash())
        .sort("row")
        .select("session_id", "session_start", "session_seq")
        .collect()
    )
    events.hstack(sessions).write_parquet(target, compression="zstd")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], check_types="--tool-typing" not in sys.argv[3:])
