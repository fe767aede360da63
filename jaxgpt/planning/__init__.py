"""What a run would need, before it is started: bytes per device, seconds per step, days, cost."""
