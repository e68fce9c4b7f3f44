"""Code that tests share: networks, brute-force references, small trainings, and scripts run in separate processes."""
