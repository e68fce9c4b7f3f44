"""What tests share: networks, brute-force references, small trainings, and scripts that run in processes of their own."""
