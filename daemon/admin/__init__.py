"""What operators see and order: doctor, status, explain, capacity, load tests, the admin API. Unknown to the core."""
