"""The console: pages that people see in a browser, and the process that serves them together with the REST API."""
