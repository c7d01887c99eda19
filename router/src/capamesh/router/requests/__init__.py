"""One inference request, whatever wire brought it, from its parameters to the attempts at nodes."""
