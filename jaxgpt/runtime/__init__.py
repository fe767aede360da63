"""Settings of the process and the device that it compiles for."""
