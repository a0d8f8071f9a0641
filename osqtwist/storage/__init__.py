"""The stores: Redis, an embedded Valkey, and memory for tests and demonstrations."""
