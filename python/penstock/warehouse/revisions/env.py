"""What Alembic runs to bring a warehouse from one version to the next; see `penstock.warehouse.upgrading`."""

from __future__ import annotations

from alembic import context

_given = context.config.attributes

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", version_table=_given["version_table"], literal_binds=True)
    context.run_migrations()
else:
    # In the transaction, and under the lock, of whoever called.
    context.configure(
        connection=_given["connection"],
        version_table=_given["version_table"],
        version_table_schema=_given["schema"],
        transaction_per_migration=False,
    )
    context.run_migrations()
