"""Alembic's entry: runs on the connection, and in the transaction, of whoever calls `database.migrate`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
