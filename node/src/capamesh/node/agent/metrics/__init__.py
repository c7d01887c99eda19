"""The node's metrics: totals, their exposition, and the page that serves them."""
