"""The same networks as ONNX graphs: written by an Ops whose methods append nodes, and run by ONNX Runtime."""
