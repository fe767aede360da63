"""The state of all slots on the device, and the programs that change it."""
