"""The router: hears which nodes replica which model and sends each request to a healthy one."""
