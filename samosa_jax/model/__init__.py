"""What the network is: its parameters, its layers, and `Network`, the pure functions over them."""
