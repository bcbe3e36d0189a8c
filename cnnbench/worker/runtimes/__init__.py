"""Ways to execute an artifact, interchangeable. Importing this imports none of them."""
