"""What tests start as processes of their own, and the launcher that forks its ranks."""
