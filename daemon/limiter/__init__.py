"""The concurrency limiter over all processes: permits, rates, cooldown and breaker, the adaptive limit."""
