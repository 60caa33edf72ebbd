package io.github.countersign.example;

import io.github.countersign.verify.Caller;
import java.util.Map;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.web.bind.annotation.*;

@RestController
@SpringBootApplication
public class Orders {
    public static void main(String[] arguments) {
        SpringApplication.run(Orders.class, arguments);
    }

    @GetMapping("/orders/{number}")
    Map<String, Object> order(@PathVariable int number, Caller caller) {
        return Map.of("number", number, "caller", caller.sub());
    }
}
