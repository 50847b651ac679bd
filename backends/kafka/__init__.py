"""An Apache Kafka broker, or three of them, on this machine."""
