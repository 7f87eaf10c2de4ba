"""Raw kept longer than Kafka keeps it: Parquet files by day and asset, and a manifest."""
