"""Quotas of projects and tokens, counted over all routers: what a call counts for, who counts, and who is asked."""
