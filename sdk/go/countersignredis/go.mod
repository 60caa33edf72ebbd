module github.com/countersign/countersign/sdk/go/countersignredis

go 1.24.0

require (
	github.com/countersign/countersign/sdk/go v0.1.0
	github.com/redis/go-redis/v9 v9.21.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-jose/go-jose/v4 v4.1.9 // indirect
	go.uber.org/atomic v1.11.0 // indirect
)

replace github.com/countersign/countersign/sdk/go => ../
