"""Opens the databases of a router: files of SQLite, and PostgreSQL by URL. What is kept in them is the matter of whoever opens them."""
