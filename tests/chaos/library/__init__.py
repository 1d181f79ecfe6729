"""The client libraries as clients of the chaos tests: the history has what an application sees of them."""
