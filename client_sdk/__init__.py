"""The reference device SDK of Columba; depends on `protocol` alone."""
