"""Desired state, the reconcile loop that makes it true, and the admin door."""
