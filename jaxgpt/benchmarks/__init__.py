"""What jaxgpt's parts reach on a machine, and what others and the machine itself do. One measure
a file; `tools/benchmark.py` runs them."""
