"""What the workers of a search share: records, leases and Optuna's study, in a folder or a database."""
