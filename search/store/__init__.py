"""The shared state of a search's workers: records, leases and Optuna's study, in a folder or a database."""
