"""The embedded broker for one server or a test: amqtt, hardened. Any other MQTT 3.1.1 broker may take its place."""
