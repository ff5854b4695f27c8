"""What both ends of the wire share: the training plan, chunks and refusal codes. Needs grpcio and protobuf."""
