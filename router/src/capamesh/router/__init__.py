"""The router: hears which nodes host which model and sends each request to a healthy one."""
