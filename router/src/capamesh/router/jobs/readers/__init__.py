"""Reads inputs of jobs in processes of their own: what a stranger's file says ends, fills or stops one of these, and no router."""
