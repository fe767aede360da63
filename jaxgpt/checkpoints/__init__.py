"""Training state on disk: durable, sharded, restorable on any number of devices."""
