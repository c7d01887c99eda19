"""The router: hears which nodes host which model and sends each request to a healthy one."""

# Decides what runs, before any module that may be compiled is read in.
from capamesh.protocol import implementation as implementation
