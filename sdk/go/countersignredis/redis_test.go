package countersignredis_test

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	countersign "github.com/countersign/countersign/sdk/go"
	"github.com/countersign/countersign/sdk/go/countersignredis"
	"github.com/countersign/countersign/sdk/go/countersigntest"
)

// startRedis starts a server on a Unix socket and returns a client.
func startRedis(t *testing.T) *redis.Client {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("COUNTERSIGN_REQUIRE_TOOLS") == "1" {
			t.Fatal("redis-server is missing")
		}
		t.Skip("redis-server is missing")
	}
	// The path of a socket is limited to about 100 bytes.
	directory, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(directory, "socket")
	command := exec.Command(binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	t.Cleanup(func() {
		_ = client.Close()
		_ = command.Process.Kill()
		_ = command.Wait()
		_ = os.RemoveAll(directory)
	})
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if strings.Contains(strings.ToLower(lines.Text()), "ready to accept connections") {
			go func() {
				for lines.Scan() { // The server must not block on a full pipe.
				}
			}()
			return client
		}
	}
	t.Fatal("redis-server ended")
	return nil
}

func code(err error) string {
	var refused *countersign.AssertionRefused
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

func TestAssertionsCountOnceForAllProcesses(t *testing.T) {
	client := startRedis(t)
	gw := countersigntest.NewTestGateway(t, "orders")
	one := gw.Verifier(countersign.WithReplayStore(countersignredis.New(client)))
	two := gw.Verifier(countersign.WithReplayStore(countersignredis.New(client)))
	const url = "https://orders.example.org/orders/7"
	request := gw.NewRequest("GET", url, nil, "api-key:nightly")
	if _, err := one.VerifyRequest(request); err != nil {
		t.Fatal(err)
	}
	for _, verifier := range []*countersign.AssertionVerifier{one, two} {
		if _, err := verifier.VerifyRequest(request); code(err) != countersign.CodeReplayed {
			t.Error(err)
		}
	}
	// Of many simultaneous uses exactly one is accepted.
	request = gw.NewRequest("GET", url, nil, "api-key:nightly")
	results := make(chan error, 50)
	var group sync.WaitGroup
	for range cap(results) {
		group.Add(1)
		go func() {
			defer group.Done()
			_, err := two.VerifyRequest(request)
			results <- err
		}()
	}
	group.Wait()
	close(results)
	accepted := 0
	for err := range results {
		if err == nil {
			accepted++
		} else if code(err) != countersign.CodeReplayed {
			t.Error(err)
		}
	}
	if accepted != 1 {
		t.Errorf("%d were accepted", accepted)
	}
}

func TestEntriesAreKeptLongEnough(t *testing.T) {
	client := startRedis(t)
	store := countersignredis.New(client, countersignredis.WithPrefix("test:"))
	now := time.Now()
	if err := store.Use(t.Context(), "id", now.Add(40*time.Second), now); err != nil {
		t.Fatal(err)
	}
	left, err := client.TTL(t.Context(), "test:id").Result()
	if err != nil || left < 390*time.Second || left > 400*time.Second {
		t.Error(left, err)
	}
	// The clock of this process was set back by two minutes.
	past := now.Add(-2 * time.Minute)
	if err := store.Use(t.Context(), "other", past.Add(40*time.Second), past); !errors.Is(err, countersign.ErrReplayExpired) {
		t.Error(err)
	}
}

func TestRedisThatIsDownRefuses(t *testing.T) {
	client := startRedis(t)
	gw := countersigntest.NewTestGateway(t, "orders")
	verifier := gw.Verifier(countersign.WithReplayStore(countersignredis.New(client)))
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := verifier.VerifyRequest(gw.NewRequest("GET", "https://orders.example.org/", nil, "api-key:nightly"))
	if code(err) != countersign.CodeReplayCacheFull {
		t.Error(err)
	}
}

func TestRedisThatHangsRefusesInTime(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	client := redis.NewClient(&redis.Options{Addr: listener.Addr().String(), MaxRetries: -1, ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = client.Close() })
	gw := countersigntest.NewTestGateway(t, "orders")
	store := countersignredis.New(client, countersignredis.WithTimeout(50*time.Millisecond))
	began := time.Now()
	_, err = gw.Verifier(countersign.WithReplayStore(store)).VerifyRequest(
		gw.NewRequest("GET", "https://orders.example.org/", nil, "api-key:nightly"))
	if code(err) != countersign.CodeReplayCacheFull || time.Since(began) > 20*time.Second {
		t.Error(err, time.Since(began))
	}
}
