"""Reading image–text shards, and writing what models and filters say about them, one file per shard."""
