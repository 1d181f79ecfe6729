import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Java's own HTTP client as it comes, which offers HTTP/2 in each request: java Client.java URL BODY [URL BODY …]. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int at = 0; at < arguments.length; at += 2) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[at]))
                .header("Authorization", "Bearer dev")
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[at + 1]))
                .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
