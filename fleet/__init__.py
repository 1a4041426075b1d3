"""A fleet on one machine: simulated POS software and many tills, for the demo, the load and the tests."""
